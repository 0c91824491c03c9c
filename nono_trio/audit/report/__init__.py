"""The report: what it says of sessions (typed data), and the HTML page that shows it."""
