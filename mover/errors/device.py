"""4: block devices of the node."""

from __future__ import annotations

from mover.errors.base import MoverError


class DeviceError(MoverError):
    """A block device could not be used."""

    code = "device"
    exit_code = 4


class DeviceAbsent(DeviceError):
    """The attached disk did not appear in time."""

    code = "device.absent"


class DeviceRefused(DeviceError):
    """A device whose identity is not proven, or that is not ours: never touched."""

    code = "device.refused"


class DeviceBusy(DeviceError):
    """Something on the node holds the device: a mount, LVM, multipath, md."""

    code = "device.busy"


class DeviceFault(DeviceError):
    """A read or write failed; facts name the exact byte range."""

    code = "device.io"


class GuardRefused(DeviceError):
    """This node would activate an attached guest volume."""

    code = "device.guard"


class DeviceRightsMissing(DeviceError):
    """This process may not use block devices: a container or unit without the rights, /dev or /sys."""

    code = "device.rights"
