"""The metrics of load balancers, as Prometheus reads them through a PROMETHEUS listener."""
