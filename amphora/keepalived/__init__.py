"""What a keepalived of either kind needs: one that speaks VRRP, and those that look after UDP and SCTP listeners."""
