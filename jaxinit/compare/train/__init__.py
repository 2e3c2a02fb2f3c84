"""One run as pure functions; where and how many of them execute."""
