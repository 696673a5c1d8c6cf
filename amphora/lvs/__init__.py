"""UDP and SCTP listeners: the kernel balances their traffic (IPVS), and a keepalived each tells it how."""
