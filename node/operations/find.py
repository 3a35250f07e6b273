"""The operation that asks a peer for the studies of a patient."""

from dataclasses import dataclass

from keys.purposes import is_purpose
from keys.trust import PURPOSES
from node.blocking import in_thread
from node.errors import ExitCode, NodeError
from node.operations.base import Call, Operation, Result
from node.operations.images import describe_found
from node.operations.searching import read_date, with_components
from protocol.find_messages import Asked, ByNumber, ByPerson, why_not_whole


@dataclass(frozen=True)
class Find:
    """Parameters of `find`: a peer, and a patient by number and issuer, or by name, birth date and
    sex."""

    peer: str
    patient_id: str = ""
    issuer: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    purpose: str = PURPOSES[0]


def read_asked(asked: Find) -> Asked:
    """The patient that a person means.

    Raises:
        NodeError: the patient is not named wholly, or in two ways, or there is no such purpose. The
            text repeats no value of the patient.
    """
    if not is_purpose(asked.purpose):
        raise NodeError(
            f"there is no purpose {asked.purpose!a}",
            hint=f"the purposes are {', '.join(PURPOSES)}, and the codes of HL7 such as TREAT",
            code=ExitCode.USAGE,
        )
    number = (asked.patient_id.strip(), asked.issuer.strip())
    person = (asked.name.strip(), asked.birth_date.strip(), asked.sex.strip())
    if all(number) and not any(person):
        patient: Asked = ByNumber(*number)
    elif all(person) and not any(number):
        patient = ByPerson(
            with_components(person[0]), read_date(person[1], "birth date"), person[2].upper()
        )
    else:
        raise NodeError(
            "a search must name one patient, and wholly",
            hint="give --patient-id and --issuer, or --name, --born and --sex",
            code=ExitCode.USAGE,
        )
    wrong = why_not_whole(patient)
    if wrong:
        raise NodeError(wrong, code=ExitCode.USAGE)
    return patient


async def find(call: Call, asked: Find) -> Result:
    """Ask a peer which studies of a patient it has; they can be fetched for a day."""
    node, serving = call.node, call.require_serving()
    patient = read_asked(asked)
    peer = await in_thread(node.peers.find, asked.peer)
    answer = await serving.finder.ask(peer, patient, asked.purpose)
    return {
        "peer": peer.petname,
        "find": answer.find.hex(),
        "studies": await in_thread(describe_found, node, answer.studies),
    }


OPERATIONS = (Operation("find", Find, find, writes=True, needs_network=True, roles=("send",)),)
