"""The parts of ``secgear demo``: the app, the parties' data, the attacker, the report."""
