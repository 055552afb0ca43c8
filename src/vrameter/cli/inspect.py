"""``vrameter inspect SOURCE``: what is in a model's files."""

from __future__ import annotations

import click

from vrameter.cli.options import online_option, output_options
from vrameter.i18n import tr


def command() -> click.Command:
    """Return the command."""
    return click.Command(
        "inspect",
        callback=run,
        params=[
            click.Argument(["source"]),
            click.Option(
                ["--dtype"], metavar="NAME", help=tr("data type of unquantised weights (default: the checkpoint's)")
            ),
            click.Option(
                ["--quantization", "-q"],
                metavar="NAME",
                help=tr("which GGUF file, where there are several: q4_k_m, ..."),
            ),
            online_option(),
            *output_options(check=False),
        ],
        help=tr(
            "Show what SOURCE holds, a repository, a folder or a weight file: tensors, parameters and bytes by component, "
            "role, layers and number format. Only headers are read."
        ),
    )


def run(source: str, format_: str, dtype: str | None, quantization: str | None, online: bool | None) -> int:
    """Look into one source."""
    from vrameter.cli.write import warn, write_json, write_text
    from vrameter.inspection import inspect

    answer = inspect(source, dtype=dtype, quantization=quantization, online=bool(online))
    if format_ == "json":
        write_json(answer)
        return 0
    if format_ == "quiet":
        write_text(str(answer["bytes"]))
        return 0
    from vrameter.render.inspection import inspection_markdown, inspection_text

    write_text(inspection_text(answer) if format_ == "human" else inspection_markdown(answer))
    warn(answer["warnings"])
    return 0
