"""The store: tables, migrations, and every change of state."""
