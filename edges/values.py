"""What fits as a value of which VR (PS3.5 section 6.2)."""

import re

_CHARACTERS = {"SH": 16, "LO": 64, "ST": 1024, "PN": 64}
_TIME_FORM = re.compile(r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)?")
_DATE_TIME = re.compile(r"[0-9]{4}([0-9]{2}){0,5}(\.[0-9]{1,6})?([+-][0-9]{4})?")
_CODE = re.compile(r"[A-Z0-9 _]{1,16}(\\[A-Z0-9 _]{1,16})*")
_DAYS = re.compile(r"[12][0-9]{3}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])")


def fitting(vr: str, text: str) -> str:
    """A text as a value of this VR, shortened if it is too long; "" if it is none."""
    text = text.strip(" \0")
    if vr == "DA":
        # As ACR-NEMA wrote it: 2004.01.19.
        digits = text.replace(".", "")
        return digits if _DAYS.fullmatch(digits) else ""
    if vr == "TM":
        time = text.replace(":", "")
        return time if _TIME_FORM.fullmatch(time) else ""
    if vr == "DT":
        return text if _DATE_TIME.fullmatch(text) else ""
    if vr == "CS":
        return text if _CODE.fullmatch(text) else ""
    if vr in ("IS", "US", "UL"):
        if re.fullmatch(r"[+-]?[0-9]{1,11}", text) is None:
            return ""
        most = {"IS": 2**31 - 1, "US": 2**16 - 1, "UL": 2**32 - 1}[vr]
        number = int(text)
        return str(number) if number <= most and number >= (-(2**31) if vr == "IS" else 0) else ""
    cleaned = "".join(one if one.isprintable() else " " for one in text).replace("\\", "/")
    if vr == "PN":
        return "=".join(group[:64].rstrip() for group in cleaned.split("=")[:3])
    return cleaned[: _CHARACTERS[vr]].strip()
