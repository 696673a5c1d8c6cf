"""What `script/soak` is made of: an amphora under load and faults for an hour, and what came of it in figures."""
