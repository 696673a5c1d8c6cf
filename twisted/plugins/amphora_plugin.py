"""Makes `twistd amphora` known; the agent itself is put together in `amphora.tap`."""

from twisted.application.service import ServiceMaker

amphora_agent = ServiceMaker(
    "Amphora agent",
    "amphora.tap",
    "The agent of an OpenStack load-balancer VM: REST API, haproxy, heartbeats.",
    "amphora",
)
