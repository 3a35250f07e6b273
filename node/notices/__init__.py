"""What a person has to know while nobody looks: subjects, what was told of them, mail, webhook."""
