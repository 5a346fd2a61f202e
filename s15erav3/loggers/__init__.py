"""Where metrics go, besides the terminal."""
