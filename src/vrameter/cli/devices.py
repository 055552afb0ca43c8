"""``vrameter devices [PATTERN]``: the devices by name, and what a process sees of each."""

from __future__ import annotations

import click

from vrameter.cli.options import output_options
from vrameter.i18n import tr


def command() -> click.Command:
    """Return the command."""
    return click.Command(
        "devices",
        callback=run,
        params=[click.Argument(["pattern"], required=False), *output_options(check=False)],
        help=tr("List the devices, or those whose name holds PATTERN, with the memory that a process sees of each."),
    )


def run(pattern: str | None, format_: str) -> int:
    """List devices."""
    from vrameter import devices
    from vrameter.cli.write import write_table
    from vrameter.errors import UnknownNameError
    from vrameter.units import format_bytes

    names = devices.names(pattern or "")
    if not names:
        raise UnknownNameError(
            tr("PATTERN: no device's name holds '%(value)s'.", value=pattern or ""),
            pattern or "",
            devices.names(),
            field="PATTERN",
            otherwise=tr("List the names with: vrameter devices"),
        )
    found = [devices.find(name) for name in names]
    basis = {"measured": tr("measured"), "assumed": tr("assumed")}
    columns = [
        (tr("device"), "left"), (tr("name"), "left"), (tr("a process sees"), "right"), (tr("basis"), "left"),
        (tr("bandwidth [GB/s]"), "right"),
    ]  # fmt: skip
    rows = [
        (
            device.id,
            device.name,
            format_bytes(device.capacity_bytes),
            basis.get(device.basis, device.basis),
            f"{device.bandwidth_gb_s:,.0f}" if device.bandwidth_gb_s else "-",
        )
        for device in found
    ]
    plain = [
        {
            "name": device.id,
            "full_name": device.name,
            "vendor": device.vendor,
            "capacity_bytes": device.capacity_bytes,
            "low_bytes": device.capacity_interval[0],
            "high_bytes": device.capacity_interval[1],
            "nvidia_smi_bytes": device.nvidia_smi_bytes,
            "torch_total_bytes": device.torch_total_bytes,
            "basis": device.basis,
            "source": device.capacity_source,
            "bandwidth_gb_s": device.bandwidth_gb_s,
            "tflops": device.tflops,
            "compute_capability": device.compute_capability,
            "unified_memory": device.unified_memory,
        }
        for device in found
    ]
    return write_table(columns, rows, format_, plain=plain)
