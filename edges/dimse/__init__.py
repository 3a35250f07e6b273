"""The DICOM upper layer and DIMSE messages for who accepts associations; PS3.7 and PS3.8.

Sans-I/O: bytes in, events out. `association` is the way in.
"""
