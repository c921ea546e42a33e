"""stub"""
import typer
app = typer.Typer()
@app.command()
def send() -> None: ...
