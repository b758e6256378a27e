"""A drawn world behind the signatures that photographs and real base models have."""
