"""The table of settings: each entry of `config.toml` is one row here.

The file of a new home, the table in docs/operations.md section 4 and the errors for wrong
values are made from the rows (`node.setting_texts`). `node.config` reads a file.
"""

import json
from collections.abc import Mapping
from typing import Any

from node.edges.archive_settings import INDEX_DAYS, QUERY
from node.edges.dimse_settings import (
    DEFAULT_COMMITMENT_HOURS,
    DEFAULT_IDLE_SECONDS,
    DEFAULT_STUDIES_A_DAY,
    OUR_DOOR,
)
from node.edges.folder_settings import DEFAULT_STILL_SECONDS
from node.edges.identity_settings import DEFAULT_TEMPORARY, NUMBER
from node.notices.settings import SECURITIES
from node.reports.collector import FORMATS
from node.setting import Setting
from node.transfer.bandwidth import LEAST_MBIT, MOST_MBIT
from protocol import limits

_DAY_SECONDS = 24 * 3600
_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


SETTINGS = (
    Setting(
        name="listen",
        kind="texts",
        default=["/ip4/0.0.0.0/tcp/4101"],
        sentence="where the node listens for peers (libp2p multiaddrs); none for a node that "
        "only calls. A hospital opens this one port",
    ),
    Setting(
        name="addresses",
        kind="texts",
        default=[],
        sentence="where peers reach the node, as written into the facility card; empty: what it "
        "listens on, without private addresses (10.x, 192.168.x, ...)",
    ),
    Setting(
        name="write_block_bytes",
        kind="number",
        default=limits.WRITE_BLOCK_BYTES,
        least=1024,
        most=limits.WRITE_BLOCK_BYTES,
        sentence="bytes per write to the network; 16384 behind a proxy or VPN that cuts packets "
        "very small, which costs speed",
    ),
    Setting(
        name="log_level",
        kind="choice",
        default="info",
        choices=("error", "warning", "info", "debug"),
        sentence="what the process log tells: `warning` what an operator must know, `debug` "
        "detail; never patient data",
    ),
    Setting(
        name="export_mode",
        kind="permissions",
        default="0600",
        example='"0600"',
        sentence="permissions of exported images, as octal digits: 0640 lets the group of the "
        "node's user read them; folders are as open as their files",
    ),
    Setting(
        name="audit.witness_quorum",
        kind="number",
        default=0,
        least=0,
        most=_DAY_SECONDS,
        example="0",
        sentence="how many facilities with the grant `witness` must have cosigned a checkpoint; "
        "0: none must",
    ),
    Setting(
        name="audit.witness_seconds",
        kind="number",
        default=60,
        least=1,
        most=_DAY_SECONDS,
        example="60",
        sentence="between two rounds with the witnesses, while there are entries that are not "
        "cosigned",
    ),
    Setting(
        name="audit.heartbeat_seconds",
        kind="number",
        default=900,
        least=1,
        most=_DAY_SECONDS,
        example="900",
        sentence="after so long without an entry, one says that nothing happened",
    ),
    Setting(
        name="audit.persons",
        kind="flag",
        default=False,
        example="true",
        sentence="whether audit messages, in reports and to a collector, name the people who asked "
        "here (section 16); otherwise only that it was a person",
    ),
    Setting(
        name="audit.syslog.address",
        kind="text",
        default=None,
        example='"logs.hospital.example:6514"',
        sentence="a syslog collector that gets each entry over TLS (section 16)",
    ),
    Setting(
        name="audit.syslog.ca",
        kind="text",
        default=None,
        example='"/etc/radmesh/logs-ca.pem"',
        sentence="file (PEM) of the authority that signed the collector's certificate; a "
        "relative path starts at the home",
    ),
    Setting(
        name="audit.syslog.certificate",
        kind="text",
        default="",
        example='"/etc/radmesh/node.pem"',
        sentence="file (PEM) of our certificate, if the collector asks for one",
    ),
    Setting(
        name="audit.syslog.key",
        kind="text",
        default="",
        example='"/etc/radmesh/node.key"',
        sentence="file (PEM) of its key, if that is not in `certificate`",
    ),
    Setting(
        name="audit.syslog.format",
        kind="choice",
        default="dicom",
        choices=FORMATS,
        example='"dicom"',
        sentence="what it gets: DICOM audit messages (`dicom`), which name studies and patients, "
        "or the entries as they are (`json`), which name nobody",
    ),
    Setting(
        name="people.group",
        kind="text",
        default="",
        example='"radiology"',
        sentence="a group of this machine whose members may use the local API over a second "
        "socket, and are named in the log (section 14); empty: no second socket",
    ),
    Setting(
        name="people.folder",
        kind="path",
        default="",
        example='"/run/radmesh"',
        sentence="an absolute path: where that socket, `api.sock`, lies; empty: beside the home, "
        "in `HOME-people`",
    ),
    Setting(
        name="people.unlisted",
        kind="choice",
        default=None,
        choices=("nothing", "look", "all"),
        example='"look"',
        sentence="what a member of the group may who is not in the list of people (`radmesh "
        "people`): with none `nothing`, or, in a home from before the list, `all` until the first "
        "person is in it (section 14)",
    ),
    Setting(
        name="emergency.reasons",
        kind="texts",
        default=["life-threatening", "unconscious", "mass-casualty"],
        example='["life-threatening", "unconscious", "mass-casualty"]',
        sentence="the reasons that people here may give for an emergency access, one word each; a "
        "colon and a text may follow (section 5)",
    ),
    Setting(
        name="emergency.over_objections",
        kind="flag",
        default=False,
        example="true",
        sentence="whether the emergency access of a peer goes over the objection of a patient",
    ),
    Setting(
        name="emergency.rest_until_reviewed",
        kind="flag",
        default=False,
        example="true",
        sentence="whether emergency access rests while a review is overdue: here for the peer that "
        "had it, and for us where we had it",
    ),
    Setting(
        name="retention.openings_days",
        kind="number",
        default=0,
        least=0,
        most=36_500,
        example="2200",
        sentence="after so many days `radmesh retention --apply` erases what names patients, "
        "studies and people beside an entry of the log; 0: never",
    ),
    Setting(
        name="retention.transfers_days",
        kind="number",
        default=0,
        least=0,
        most=36_500,
        example="365",
        sentence="after so many days a transfer that has ended leaves the list of transfers, "
        "likewise",
    ),
    Setting(
        name="retention.quarantine_days",
        kind="number",
        default=0,
        least=0,
        most=36_500,
        example="90",
        sentence="after so many days what is in the quarantine is dropped, likewise",
    ),
    Setting(
        name="keeping.days",
        kind="number",
        default=0,
        least=0,
        most=36_500,
        example="30",
        sentence="so many days after a study was proven to be in an archive of yours it is removed "
        "here by itself, unless something keeps it; never with 0",
    ),
    Setting(
        name="keeping.quota_gb",
        kind="number",
        default=0,
        least=0,
        most=1_000_000,
        example="500",
        sentence="above so many gigabytes (10^9 bytes) of studies those that have been longest in "
        "an archive are removed; if none may go, no more images are taken in; 0 for no quota",
    ),
    Setting(
        name="keeping.youngest_days",
        kind="number",
        default=7,
        least=0,
        most=36_500,
        example="7",
        sentence="a study that came in less than so many days ago is not removed",
    ),
    Setting(
        name="manifests.dicomweb_url",
        kind="url",
        default="",
        example='"https://radmesh.hospital.example/dicom-web"',
        sentence="where others get our images by DICOMweb, without `/studies`: manifests say it; "
        "with none they do not",
    ),
    Setting(
        name="manifests.location_uid",
        kind="uid",
        default="",
        example='"1.2.3.4"',
        sentence="the Retrieve Location UID of that place, as the registry knows it: XDS-I wants "
        "one",
    ),
    Setting(
        name='limits."NAME"',
        kind="own",
        default=None,
        example="request = [72000, 2000]",
        sentence="how much a facility may cause here, a pair [an hour, at once] a kind, where it "
        "is not what protocol.md 3.6 says",
    ),
    Setting(
        name="arrivals.quiet_seconds",
        kind="own",
        default=30,
        least=1,
        most=3600,
        example="30",
        sentence="how long a study that comes image by image is quiet before it is packed; a table "
        "for each source that brings images, or kind of source",
    ),
    Setting(
        name="arrivals.longest_seconds",
        kind="own",
        default=600,
        least=1,
        most=_DAY_SECONDS,
        example="600",
        sentence="the longest that it waits to be packed",
    ),
    Setting(
        name="bandwidth.peer",
        kind="own",
        default=None,
        example='"South Clinic"',
        sentence="whose transfers are capped: a petname, a fingerprint, or `*` for each facility "
        "that no other table names",
    ),
    Setting(
        name="bandwidth.from",
        kind="own",
        default="00:00",
        example='"07:00"',
        sentence="from which time of day the cap holds, local time; with `to`, or neither",
    ),
    Setting(
        name="bandwidth.to",
        kind="own",
        default="24:00",
        example='"19:00"',
        sentence="until which time of day",
    ),
    Setting(
        name="bandwidth.mbit_per_second",
        kind="own",
        default=None,
        least=LEAST_MBIT,
        most=MOST_MBIT,
        example="50",
        sentence="the most that is sent to the facility, in 10^6 bits a second",
    ),
    Setting(
        name="bandwidth.stat_exempt",
        kind="own",
        default=False,
        example="true",
        sentence="whether urgent transfers go as fast as they can",
    ),
    Setting(
        name="dimse.listen",
        kind="places",
        default=[],
        example='["10.1.2.3:11112"]',
        sentence="IP addresses and ports where DICOM associations are taken without TLS, of "
        "callers that are listed with their addresses",
    ),
    Setting(
        name="dimse.tls_listen",
        kind="places",
        default=[],
        example='["10.1.2.3:2762"]',
        sentence="the same, over TLS (BCP 195), with certificates on both sides",
    ),
    Setting(
        name="dimse.certificate",
        kind="text",
        default="",
        example='"dimse.pem"',
        sentence="file with the certificate of the node for TLS (PEM, in the home)",
    ),
    Setting(
        name="dimse.key",
        kind="text",
        default="",
        example='"dimse.key"',
        sentence="file with its key",
    ),
    Setting(
        name="dimse.ca",
        kind="text",
        default="",
        example='"dimse-ca.pem"',
        sentence="file with the certificates of who signs those of the callers",
    ),
    Setting(
        name="dimse.idle_seconds",
        kind="number",
        default=DEFAULT_IDLE_SECONDS,
        least=10,
        most=24 * 3600,
        example="600",
        sentence="after so many seconds without a word an association is ended",
    ),
    Setting(
        name="dimse.commitment_hours",
        kind="number",
        default=DEFAULT_COMMITMENT_HOURS,
        least=1,
        most=7 * 24,
        example="24",
        sentence="after so many hours the report of an archive that was asked for storage "
        "commitment is not waited for any more",
    ),
    Setting(
        name="dimse.callers.addresses",
        kind="own",
        default=[],
        example='["10.1.2.4"]',
        sentence="IP addresses from which the system with this AE title calls",
    ),
    Setting(
        name="dimse.callers.certificates",
        kind="own",
        default=[],
        example=json.dumps([_DIGEST]),
        sentence="SHA-256 of certificates with which it calls over TLS",
    ),
    Setting(
        name="dimse.callers.report_to",
        kind="own",
        default=None,
        example='"10.1.2.4:104"',
        sentence="where it takes reports of storage commitment, if it does not wait for them",
    ),
    Setting(
        name="dimse.callers.report_tls",
        kind="own",
        default=False,
        example="true",
        sentence="whether over TLS; its certificate names what stands in `report_to`",
    ),
    Setting(
        name="dimse.callers.query",
        kind="own",
        default=False,
        example="true",
        sentence="whether it may query and retrieve (C-FIND, C-MOVE, C-GET)",
    ),
    Setting(
        name="dimse.callers.purpose",
        kind="own",
        default="treatment",
        example='"treatment"',
        sentence="why it does, for the log and for the facilities that are asked on its behalf",
    ),
    Setting(
        name="dimse.callers.studies_a_day",
        kind="own",
        default=DEFAULT_STUDIES_A_DAY,
        example="200",
        sentence="the most studies that it gets in 24 hours",
    ),
    Setting(
        name="dimse.callers.receives_at",
        kind="own",
        default="",
        example='"10.1.2.9:11112"',
        sentence="IP address and port where it takes what a C-MOVE sends to its AE title; nowhere "
        "else is anything sent",
    ),
    Setting(
        name="dimse.callers.receives_tls",
        kind="own",
        default=False,
        example="true",
        sentence="whether over TLS; its certificate names what stands in `receives_at`",
    ),
    Setting(
        name="dimse.doors.to",
        kind="own",
        default="",
        example='"South Clinic"',
        sentence="the facility to which what is sent to this AE title of ours is offered; with "
        "none, the sharing rules decide",
    ),
    Setting(
        name="dimse.doors.purpose",
        kind="own",
        default="",
        example='"treatment"',
        sentence="the purpose for which it is offered",
    ),
    Setting(
        name="dimse.doors.stat",
        kind="own",
        default=False,
        example="true",
        sentence="whether it is packed at once",
    ),
    Setting(
        name="dimse.doors.partners",
        kind="own",
        default=False,
        example="false",
        sentence="whether queries by this AE title are also answered from what other facilities "
        "have; by one with `to` they always are, from that facility alone",
    ),
    Setting(
        name="folders.path",
        kind="own",
        default=None,
        example='"/srv/incoming/scanner"',
        sentence="a folder, also on a share, from which files are taken as they come",
    ),
    Setting(
        name="folders.still_seconds",
        kind="own",
        default=DEFAULT_STILL_SECONDS,
        least=1,
        most=600,
        example="5",
        sentence="a file is taken when it has not changed for so long; 10 on a share",
    ),
    Setting(
        name="folders.keep",
        kind="own",
        default=False,
        example="false",
        sentence="whether files that were taken stay, in `.radmesh-done` within the folder; else "
        "they are deleted there",
    ),
    Setting(
        name="folders.to",
        kind="own",
        default="",
        example='"South Clinic"',
        sentence="the facility to which what comes is offered, as for `dimse.doors.to`",
    ),
    Setting(
        name="folders.purpose",
        kind="own",
        default="",
        example='"treatment"',
        sentence="the purpose for which it is offered",
    ),
    Setting(
        name="folders.stat",
        kind="own",
        default=False,
        example="true",
        sentence="whether it is packed at once",
    ),
    Setting(
        name="dicomweb.listen",
        kind="places",
        default=[],
        example='["127.0.0.1:8042"]',
        sentence="IP addresses and ports where DICOMweb is served, over TLS with a certificate; "
        "without one on this machine alone",
    ),
    Setting(
        name="dicomweb.certificate",
        kind="text",
        default="",
        example='"dicomweb.pem"',
        sentence="file with the certificate of the node for TLS (PEM, in the home)",
    ),
    Setting(
        name="dicomweb.key",
        kind="text",
        default="",
        example='"dicomweb.key"',
        sentence="file with its key",
    ),
    Setting(
        name="dicomweb.origins",
        kind="texts",
        default=[],
        example='["https://viewer.hospital.example"]',
        sentence="origins of web pages that may ask (CORS); a browser lets no others",
    ),
    Setting(
        name="dicomweb.callers.token_digest",
        kind="own",
        default=None,
        example=json.dumps(_DIGEST),
        sentence="SHA-256 of the token by which this system is known",
    ),
    Setting(
        name="dicomweb.callers.read",
        kind="own",
        default=True,
        example="true",
        sentence="whether it may search and read studies",
    ),
    Setting(
        name="dicomweb.callers.store",
        kind="own",
        default=False,
        example="false",
        sentence="whether it may send images",
    ),
    Setting(
        name="dicomweb.callers.purpose",
        kind="own",
        default="",
        example='"treatment"',
        sentence="the purpose for which studies of partners are fetched when it asks; with "
        "none it sees our own studies alone",
    ),
    Setting(
        name="archives.ae_title",
        kind="own",
        default=None,
        example='"PACS"',
        sentence="AE title of an archive, to which studies go by C-STORE",
    ),
    Setting(
        name="archives.host",
        kind="own",
        default=None,
        example='"10.1.2.5"',
        sentence="where it is: a name or an IP address",
    ),
    Setting(
        name="archives.port",
        kind="own",
        default=None,
        least=1,
        most=65535,
        example="104",
        sentence="its port",
    ),
    Setting(
        name="archives.calling",
        kind="own",
        default=OUR_DOOR,
        example='"RADMESH"',
        sentence="our AE title for it",
    ),
    Setting(
        name="archives.stow",
        kind="own",
        default="",
        example='"https://pacs.example/dicom-web"',
        sentence="in place of these, the address of an archive that takes studies by STOW-RS",
    ),
    Setting(
        name="archives.token",
        kind="own",
        default="",
        example='"pacs.token"',
        sentence="file with the token for that (in the home)",
    ),
    Setting(
        name="archives.ca",
        kind="own",
        default="",
        example='"pacs-ca.pem"',
        sentence="file with the certificates of who signs that of the archive (PEM, in the home); "
        "with C-STORE, TLS is used if it is given",
    ),
    Setting(
        name="archives.certificate",
        kind="own",
        default="",
        example='"pacs.pem"',
        sentence="file with the certificate of the node, if the archive asks for one",
    ),
    Setting(
        name="archives.key",
        kind="own",
        default="",
        example='"pacs.key"',
        sentence="file with its key",
    ),
    Setting(
        name="archives.sends_as",
        kind="own",
        default="",
        example='"PACS"',
        sentence="AE title by which the archive itself sends to the node, if it is not `ae_title`",
    ),
    Setting(
        name="archives.rules",
        kind="own",
        default=[],
        example='[{ source = ["peer:*"] }, { modality = ["CT"], stat = true }]',
        sentence="which studies go there by themselves, a table a rule: `modality`, `source` (as "
        "for sharing rules) and `stat` must hold; `{}` for all",
    ),
    Setting(
        name="archives.from",
        kind="own",
        default="00:00",
        example='"19:00"',
        sentence="from which time of day those go that are not urgent, local time; with `to`, or "
        "neither",
    ),
    Setting(
        name="archives.to",
        kind="own",
        default="24:00",
        example='"07:00"',
        sentence="until which time of day",
    ),
    Setting(
        name="archives.proof",
        kind="own",
        default=QUERY,
        example='"query"',
        sentence="how the node finds out that they are stored: `commitment`, `query` (C-FIND or "
        "QIDO-RS) or `none`",
    ),
    Setting(
        name="archives.index_days",
        kind="own",
        default=0,
        least=0,
        most=INDEX_DAYS,
        example="3650",
        sentence="its studies of so many days are indexed (C-FIND or QIDO-RS): they can be shared "
        "without a copy here, and are brought when somebody wants one; 0 for none",
    ),
    Setting(
        name="archives.moves_to",
        kind="own",
        default=OUR_DOOR,
        example='"RADMESH"',
        sentence="our AE title to which it sends what it is asked for by C-MOVE",
    ),
    Setting(
        name="worklists.ae_title",
        kind="own",
        default=None,
        example='"RIS"',
        sentence="AE title of a modality worklist of yours, which is asked who may be meant, and "
        "who comes today; `calling`, `ca`, `certificate` and `key` as for an archive",
    ),
    Setting(
        name="worklists.host",
        kind="own",
        default=None,
        example='"10.1.2.6"',
        sentence="its name or IP address",
    ),
    Setting(
        name="worklists.port",
        kind="own",
        default=None,
        example="104",
        sentence="its port",
    ),
    Setting(
        name="prefetch.peers",
        kind="texts",
        default=[],
        example='["South Clinic"]',
        sentence="facilities (petname or fingerprint) from which priors of a patient who comes "
        "here are fetched by themselves, where a study of that patient was matched before",
    ),
    Setting(
        name="prefetch.find",
        kind="flag",
        default=False,
        example="true",
        sentence="whether they are also asked for studies that they have not announced, once a day "
        "for each patient",
    ),
    Setting(
        name="prefetch.modalities",
        kind="texts",
        default=[],
        example='["CT", "MR"]',
        sentence="only studies with one of these; none for any",
    ),
    Setting(
        name="prefetch.years",
        kind="number",
        default=0,
        least=0,
        most=100,
        example="5",
        sentence="only studies of the last so many years; 0 for all",
    ),
    Setting(
        name="prefetch.most_a_day",
        kind="number",
        default=50,
        least=1,
        most=10_000,
        example="50",
        sentence="most studies that are fetched so in a day",
    ),
    Setting(
        name="prefetch.purpose",
        kind="own",
        default="treatment",
        example='"treatment"',
        sentence="why, for both logs",
    ),
    Setting(
        name="prefetch.worklist",
        kind="own",
        default="",
        example='"RIS"',
        sentence="a worklist by its name: who stands in it today comes, as does a patient of whom "
        "images are made here",
    ),
    Setting(
        name="identity.issuer",
        kind="text",
        default="",
        example='"HOSP-A"',
        sentence="who gives the Patient IDs of our own systems, as images write it (Issuer of "
        "Patient ID)",
    ),
    Setting(
        name="identity.ours",
        kind="texts",
        default=[],
        example='["REGION", "HOSP-A-OLD"]',
        sentence="further issuers whose Patient IDs are those of our own systems: a study with one "
        "of them is matched by that",
    ),
    Setting(
        name="identity.temporary",
        kind="text",
        default=DEFAULT_TEMPORARY,
        example=json.dumps(DEFAULT_TEMPORARY),
        sentence=f"the Patient ID under which a study goes that is matched later, with `{NUMBER}`",
    ),
    Setting(
        name="identity.elsewhere",
        kind="texts",
        default=[],
        example='["folder:discs"]',
        sentence="sources here whose images were made elsewhere, as the log has them; `*` at the "
        "end stands for any characters",
    ),
    Setting(
        name="identity.peers.issuer",
        kind="own",
        default="",
        example='"REGION"',
        sentence="who gives the Patient IDs of this facility, where its images do not say it",
    ),
    Setting(
        name="identity.peers.prefix",
        kind="own",
        default="",
        example='"S-"',
        sentence="up to 8 characters, put before its accession numbers, Study IDs and admission "
        "IDs; without them these are emptied",
    ),
    Setting(
        name='identity.descriptions."THEIRS"',
        kind="own",
        default=None,
        example='"CT Thorax nativ" = "CT Chest"',
        sentence="our study description in place of theirs",
    ),
    Setting(
        name='identity.body_parts."THEIRS"',
        kind="own",
        default=None,
        example='"THORAX" = "CHEST"',
        sentence="our body part in place of theirs",
    ),
    Setting(
        name='identity.procedures."SCHEME:VALUE"',
        kind="own",
        default=None,
        example='"99SOUTH:CT77" = { value = "CTCHEST", scheme = "99HOSPA", meaning = "CT Chest" }',
        sentence="our procedure code in place of theirs",
    ),
    Setting(
        name="metrics.listen",
        kind="local",
        default="",
        example='"127.0.0.1:9464"',
        sentence="address of this machine and port where Prometheus reads metrics (section 18); "
        "empty: nowhere",
    ),
    Setting(
        name="webhook.url",
        kind="url",
        default="",
        example='"https://alerts.hospital.example/radmesh"',
        sentence="where notices are posted, over https (section 18)",
    ),
    Setting(
        name="webhook.secret",
        kind="text",
        default="",
        example='"webhook.secret"',
        sentence="file with the secret that signs each body, 16 characters or more; a relative "
        "path starts at the home",
    ),
    Setting(
        name="webhook.ca",
        kind="text",
        default="",
        example='"/etc/radmesh/hospital-ca.pem"',
        sentence="file (PEM) of the authority that signed the server's certificate; empty: those "
        "of the system",
    ),
    Setting(
        name="mail.relay",
        kind="relay",
        default="",
        example='"mail.hospital.example:25"',
        sentence="the hospital's SMTP relay, which carries notices (section 18)",
    ),
    Setting(
        name="mail.from",
        kind="address",
        default="",
        example='"radmesh@hospital.example"',
        sentence="the address that notices come from",
    ),
    Setting(
        name="mail.to",
        kind="addresses",
        default=[],
        example='["pacs-team@hospital.example"]',
        sentence="the addresses that they go to",
    ),
    Setting(
        name="mail.security",
        kind="choice",
        default="starttls",
        choices=SECURITIES,
        example='"starttls"',
        sentence="how the line to the relay is protected: `tls` from its first byte; `none` is for "
        "a relay on the same machine",
    ),
    Setting(
        name="mail.ca",
        kind="text",
        default="",
        example='"/etc/radmesh/hospital-ca.pem"',
        sentence="file (PEM) of the authority that signed the relay's certificate; empty: those "
        "of the system",
    ),
    Setting(
        name="mail.user",
        kind="text",
        default="",
        example='"radmesh"',
        sentence="the name to log in with, if the relay asks for one",
    ),
    Setting(
        name="mail.password",
        kind="text",
        default="",
        example='"mail.password"',
        sentence="file with its password",
    ),
)

TABLES = {
    "audit": "[audit]",
    "audit.syslog": "[audit.syslog]",
    "people": "[people]",
    "emergency": "[emergency]",
    "retention": "[retention]",
    "keeping": "[keeping]",
    "manifests": "[manifests]",
    "limits": '[limits."South Clinic"]',
    "arrivals": '[arrivals."command:nightly"]',
    "bandwidth": "[[bandwidth]]",
    "dimse": "[dimse]",
    "dimse.callers": '[dimse.callers."CT1"]',
    "dimse.doors": '[dimse.doors."RM_SOUTH"]',
    "folders": '[folders."scanner"]',
    "dicomweb": "[dicomweb]",
    "dicomweb.callers": '[dicomweb.callers."VIEWER"]',
    "archives": '[archives."PACS"]',
    "worklists": '[worklists."RIS"]',
    "prefetch": "[prefetch]",
    "identity": "[identity]",
    "identity.peers": '[identity.peers."South Clinic"]',
    "identity.descriptions": "[identity.descriptions]",
    "identity.body_parts": "[identity.body_parts]",
    "identity.procedures": "[identity.procedures]",
    "metrics": "[metrics]",
    "webhook": "[webhook]",
    "mail": "[mail]",
}
"""The title line of each table, in the order of the file."""

DEFAULTS: Mapping[str, Any] = {row.name: row.default for row in SETTINGS}


def rows_of(table: str) -> dict[str, Setting]:
    """The rows of one table, by their names in it; "" for rows outside of tables."""
    return {row.key: row for row in SETTINGS if row.table == table}


def tables_in(table: str) -> set[str]:
    """The names of the tables within a table."""
    return {name.rpartition(".")[2] for name in TABLES if name.rpartition(".")[0] == table}
