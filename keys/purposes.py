"""Why somebody wants a study: four words of ours, and the HL7 PurposeOfUse codes.

The codes are those of the value set PurposeOfUse (OID 2.16.840.1.113883.1.11.20448) of the code
system v3-ActReason. They are nested: who may ask for treatment may also ask for the coordination of
care. Two never follow from another purpose, and must be named: `BTG` (breaking the glass) and
`MLTRAINING` (training a model).
"""

from collections.abc import Iterable

WORDS = ("treatment", "second-opinion", "research", "operations")
"""The words of ours, for people."""

_NESTED = """
TREAT
  CLINTRL
  COC
  ETREAT
    BTG
    ERTREAT
  POPHLTH
  TREATDS
HPAYMT
  CLMATTCH
  COVAUTH
  COVERAGE
    ELIGDTRM
    ELIGVER
    ENROLLM
    MILDCRG
  REMITADV
  PMTDS
HOPERAT
  CAREMGT
  DONAT
  FRAUD
  GOV
  HACCRED
  HCOMPL
  HDECD
  HDIRECT
  HDM
  HLEGAL
  HOUTCOMS
  HPRGRP
  HQUALIMP
  HSYSADMIN
  LABELING
  METAMGT
  MEMADMIN
  MILCDM
  PATADMIN
  PATSFTY
  PERFMSR
  RECORDMGT
  SYSDEV
    HTEST
  TRAIN
  MLTRAINING
HRESCH
  BIORCH
  CLINTRCH
    CLINTRCHNPC
    CLINTRCHPC
    PRECLINTRCH
  DSRCH
  POARCH
  TRANSRCH
PATRQT
  FAMRQT
  PWATRNY
  SUPNWK
PUBHLTH
  DISASTER
  THREAT
HMARKT
"""

BREAK_GLASS = "BTG"
_NAMED_ONLY = frozenset({BREAK_GLASS, "MLTRAINING"})


def _read() -> dict[str, tuple[str, ...]]:
    """Code to itself and the codes above it."""
    above: list[str] = []
    found = {}
    for line in _NESTED.split("\n"):
        code = line.strip()
        if code:
            depth = (len(line) - len(code)) // 2
            above = [*above[:depth], code]
            found[code] = tuple(reversed(above))
    return found


_ABOVE = _read()
CODES = tuple(_ABOVE)

_CODE_OF = {
    "treatment": "TREAT",
    "second-opinion": "TREAT",
    "research": "HRESCH",
    "operations": "HOPERAT",
}


def is_purpose(text: str) -> bool:
    """Whether the text is one of `WORDS` or `CODES`."""
    return text in _CODE_OF or text in _ABOVE


def code_of(purpose: str) -> str:
    """The HL7 code of a purpose, or "" for none."""
    return _CODE_OF.get(purpose, purpose if purpose in _ABOVE else "")


def covers(allowed: str, purpose: str) -> bool:
    """Whether somebody who may do something for one purpose may do it for another.

    `second-opinion` is covered by itself and by `TREAT`, but not by `treatment`: who names the
    words tells the two apart.
    """
    if allowed == purpose:
        return is_purpose(purpose)
    if not is_purpose(allowed) or allowed == "second-opinion":
        return False
    if purpose == "second-opinion":
        return allowed == "TREAT"
    code = code_of(purpose)
    return code not in _NAMED_ONLY and code_of(allowed) in _ABOVE.get(code, ())


def covered_by(allowed: Iterable[str], purpose: str) -> bool:
    """Whether one of these purposes covers the other; see `covers`."""
    return any(covers(one, purpose) for one in allowed)


def is_research(purpose: str) -> bool:
    """Whether a purpose is research, or training a model: what a patient may object to alone."""
    return covers("HRESCH", purpose) or purpose == "MLTRAINING"
