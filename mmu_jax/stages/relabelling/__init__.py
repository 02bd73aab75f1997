"""Other answers for the pictures to forget, from a teacher."""
