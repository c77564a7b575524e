"""`python -m benchmarks`: the figures of the README, one benchmark after the other.

The router beside its peers takes longer: `python -m benchmarks.router`.
"""

from . import engine_cpu, fleet_cpu

for benchmark in (engine_cpu, fleet_cpu):
    benchmark.main([])
