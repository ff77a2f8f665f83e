"""How blocks are ordered and finalized: `solo`, one authority in this process."""
