"""What travels in envelopes, by topic; and what enclaves sign for the chain."""
