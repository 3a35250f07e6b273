"""DICOMweb without I/O (PS3.18): requests read, answers written; bytes in, values out.

`paths` and `query` read what is asked, `media` what the client takes, `multipart` is the form of
bodies of several parts, `attributes` and `matching` answer searches, and `stored` says what became
of what was sent. `node/edges/dicomweb_server.py` puts it on a socket.
"""
