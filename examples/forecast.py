"""Would an upload limit protect a model? What ``narrows plan`` says, in Python.

Run: python examples/forecast.py
"""

import narrows

for preset in ("llama-3.1-405b", "llama-3.1-8b"):
    plan = narrows.forecast(preset, draws=2_000)
    print(f"{preset}: {plan.verdict.line}")
