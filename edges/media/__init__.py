"""Media of PS3.10 to PS3.12 as bytes: ISO 9660 images and DICOMDIRs. Sans-I/O."""
