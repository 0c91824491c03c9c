"""`audit verify`: what a session proves, without trusting the machine that wrote it."""
