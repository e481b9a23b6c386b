"""What travels: shapes, dialects and their translation. No sockets, no clock."""
