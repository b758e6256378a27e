"""Work that several processes share, on one machine or many: leases, locks, helpers, a Ray cluster."""
