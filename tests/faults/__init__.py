"""What machines do to programs: killed, out of space, forked, many at once."""
