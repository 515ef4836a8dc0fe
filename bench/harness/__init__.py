"""How it is measured: turns, clocks, records, tables and documents."""
