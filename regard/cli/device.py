"""The device that a command is to run on, tried before anything is loaded."""

from regard.errors import RegardError


def usable(device: str) -> str:
    """The device. Raises: RegardError where it can't be used here."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # what torch raises depends on the device
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RegardError(f"--device {device} can't be used here ({said}). Type --device cpu.") from error
    return device
