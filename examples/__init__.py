"""Programs that show the library at work; each runs from a checkout in minutes, and is a test."""
