"""An agent for amphorae: the virtual machines that balance load in an OpenStack cloud."""

__version__ = "0.1.0.dev0"
