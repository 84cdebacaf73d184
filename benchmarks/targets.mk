# Side by side with etcd; each writes its section of docs/benchmarks.md, bench-quick none.
.PHONY: bench bench-quick bench-scale bench-compaction bench-cluster bench-watch \
	bench-leases bench-docs

bench:             ## trouped and etcd under the same load, in turn: about 20 minutes
	$(PYTHON) -m benchmarks.bench

bench-quick:       ## a look at the same table in three minutes
	$(PYTHON) -m benchmarks.bench --quick --no-docs

bench-scale:       ## starts and memory with a million keys
	$(PYTHON) -m benchmarks.scale

bench-compaction:  ## the slowest put before and while half a million revisions are compacted
	$(PYTHON) -m benchmarks.compaction

bench-cluster:     ## three members of each under the same load, in turn: about 15 minutes
	$(PYTHON) -m benchmarks.cluster

bench-watch:       ## watchers: latency, events a second, ten thousand idle, catching up: 15 minutes
	$(PYTHON) -m benchmarks.watch

bench-leases:      ## 100,000 leases kept alive, and expiry under load: about 20 minutes
	$(PYTHON) -m benchmarks.leases

bench-docs:        ## docs/benchmarks.md anew from docs/benchmarks/*.json
	$(PYTHON) -m benchmarks.report
