"""What others may know of a study without its images: KOS, MADO and FHIR ImagingStudy. Sans-I/O."""
