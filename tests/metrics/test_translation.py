"""haproxy's metrics in Octavia's words."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis.strategies import integers, lists
from twisted.trial.unittest import SynchronousTestCase

from amphora.metrics.translation import Translator, translate

LISTENER, POOL, MEMBER = "c0ffee00-0000-4000-8000-000000000001", "c0ffee00-0000-4000-8000-000000000002", "m-1"

TEXT = f"""\
# HELP haproxy_process_nbthread Number of started threads (global.nbthread)
# TYPE haproxy_process_nbthread gauge
haproxy_process_nbthread 2
# TYPE haproxy_process_pool_used_bytes gauge
haproxy_process_pool_used_bytes 81920
# TYPE haproxy_process_max_connections gauge
haproxy_process_max_connections 200
# HELP haproxy_frontend_status Current status of the service, per state label value.
# TYPE haproxy_frontend_status gauge
haproxy_frontend_status{{proxy="prometheus-exporter-internal-endpoint",state="UP"}} 1
haproxy_frontend_status{{proxy="{LISTENER}",state="DOWN"}} 0
haproxy_frontend_status{{proxy="{LISTENER}",state="UP"}} 1
# HELP haproxy_backend_active_servers Total number of active UP servers with a non-zero weight
# TYPE haproxy_backend_active_servers gauge
haproxy_backend_active_servers{{proxy="prometheus-exporter-internal"}} 1
haproxy_backend_active_servers{{proxy="{POOL}:{LISTENER}"}} 0
# TYPE haproxy_server_http_responses_total counter
haproxy_server_http_responses_total{{proxy="prometheus-exporter-internal",server="prometheus-internal",code="2xx"}} 9
haproxy_server_http_responses_total{{proxy="{POOL}:{LISTENER}",server="{MEMBER}",code="2xx"}} 7
# TYPE haproxy_server_uweight gauge
haproxy_server_uweight{{proxy="{POOL}:{LISTENER}",server="{MEMBER}"}} 1
""".encode()

TRANSLATED = f"""\
# TYPE octavia_memory_pool_used_bytes gauge
octavia_memory_pool_used_bytes 81920
# TYPE octavia_loadbalancer_max_connections gauge
octavia_loadbalancer_max_connections 200
# HELP octavia_listener_status Current status of the service, per state label value.
# TYPE octavia_listener_status gauge
octavia_listener_status{{listener="{LISTENER}",state="DOWN"}} 0
octavia_listener_status{{listener="{LISTENER}",state="UP"}} 1
# HELP octavia_pool_active_members Total number of active UP members with a non-zero weight
# TYPE octavia_pool_active_members gauge
octavia_pool_active_members{{pool="{POOL}:{LISTENER}"}} 0
# TYPE octavia_member_http_responses_total counter
octavia_member_http_responses_total{{pool="{POOL}:{LISTENER}",member="{MEMBER}",code="2xx"}} 7
""".encode()


class TranslationTests(SynchronousTestCase):
    def test_text(self) -> None:
        """What Octavia tells is renamed, what it does not tell is left out, and so are the proxies of the metrics."""
        translator = Translator()
        self.assertEqual(TRANSLATED, translator.feed(TEXT))
        self.assertTrue(translator.complete)

    @given(lists(integers(1, len(TEXT) - 1), max_size=6))
    def test_parts(self, cuts: list[int]) -> None:
        """It is the same wherever the text is cut."""
        translator = Translator()
        bounds = [0, *sorted(cuts), len(TEXT)]
        parts = [translator.feed(TEXT[start:end]) for start, end in itertools.pairwise(bounds)]
        self.assertEqual(TRANSLATED, b"".join(parts))

    def test_torn(self) -> None:
        """A line without an end is not given out."""
        translator = Translator()
        self.assertEqual(b"", translator.feed(b"haproxy_process_max_connections 20"))
        self.assertFalse(translator.complete)

    def test_words_in_values(self) -> None:
        """Only names change: a member may be called as anything is called."""
        line = b'haproxy_server_weight{proxy="server=:proxy=",server="haproxy_server_weight"} 1'
        self.assertEqual(
            b'octavia_member_weight{pool="server=:proxy=",member="haproxy_server_weight"} 1', translate(line)
        )

    def test_not_of_the_metrics_proxies(self) -> None:
        """A name that only begins like theirs is somebody's pool."""
        line = b'haproxy_backend_status{proxy="prometheus-exporter-internal-2",state="UP"} 1'
        self.assertEqual(b'octavia_pool_status{pool="prometheus-exporter-internal-2",state="UP"} 1', translate(line))

    def test_garbage(self) -> None:
        """What is no metric of haproxy's is left out."""
        for line in (b"", b"#", b"# EOF", b"haproxy_", b"haproxy_process_max_connections", b"x 1", b"\xff\x00"):
            self.assertIsNone(translate(line), line)
