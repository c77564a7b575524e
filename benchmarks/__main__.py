"""`python -m benchmarks`: every benchmark that runs on this machine, one after the other."""

from . import engine_cpu, fleet_cpu

for benchmark in (engine_cpu, fleet_cpu):
    benchmark.main([])
