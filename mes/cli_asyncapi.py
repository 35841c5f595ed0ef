"""`mes asyncapi`: the wire contract for machine builders and dashboards."""

from __future__ import annotations

import click


@click.command()
def asyncapi() -> None:
    """Print the AsyncAPI 3 document of all topics and payloads."""
    from mes.asyncapi import text

    click.echo(text(), nl=False)
