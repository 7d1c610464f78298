"""`k25 data`: the table of its commands."""

from cyclopts import App

app = App(name="data", help="Look at training data and exercises.")
app.command("k25.cli.data_peek:peek", name="peek", help="Show what a recipe feeds to training: samples and statistics.")
app.command("k25.cli.data_tasks:main", name="tasks", help="Show the procedural tasks.")
app.command("k25.cli.data_synthesize:main", name="synthesize", help="Make training records of verified model answers.")
