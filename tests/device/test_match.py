"""The device that was named, or a refusal that tells what to do."""

from __future__ import annotations

import pytest

from bi_harness.device.match import describe_gpus, match_device
from bi_harness.errors import InfrastructureError, WrongDevice
from bi_harness.exits import ExitCode

from .conftest import Device, make_gpu, make_host

Devices = dict[str, Device]


def refusal(requested: str, devices: Devices, host) -> str:
    with pytest.raises(WrongDevice) as caught:
        match_device(requested, devices, host)
    assert caught.value.exit_code is ExitCode.USAGE
    text = str(caught.value)
    assert "What to do: " in text
    return text


@pytest.mark.parametrize(
    ("name", "capability", "device"),
    [
        ("NVIDIA A100-SXM4-80GB", "8.0", "a100"),
        ("NVIDIA H100 80GB HBM3", "9.0", "h100"),
        ("NVIDIA H200", "9.0", "h200"),
        ("NVIDIA B200", "10.0", "b200"),
        ("NVIDIA L4", "8.9", "l4"),
    ],
)
def test_auto_and_the_name_agree(devices: Devices, name: str, capability: str, device: str) -> None:
    host = make_host(make_gpu(name, capability))
    assert match_device("auto", devices, host) == device
    assert match_device(device, devices, host) == device


def test_l4_is_not_l40s(devices: Devices) -> None:
    assert "no device for it" in refusal("auto", devices, make_host(make_gpu("NVIDIA L40S", "8.9")))


def test_cpu_host(devices: Devices) -> None:
    assert match_device("auto", devices, make_host()) == "cpu"
    assert match_device("cpu", devices, make_host()) == "cpu"


def test_cpu_may_be_asked_for_on_any_host(devices: Devices) -> None:
    assert match_device("cpu", devices, make_host(make_gpu())) == "cpu"
    assert match_device("cpu", devices, make_host(gpu_problem="broken")) == "cpu"
    assert match_device("cpu", devices, make_host(make_gpu(), make_gpu("NVIDIA L4", "8.9", 1))) == "cpu"


def test_gpu_asked_for_on_a_cpu_host(devices: Devices) -> None:
    text = refusal("a100", devices, make_host())
    assert "a100" in text
    assert "sm_80" in text
    assert "CPU host (AMD EPYC" in text
    assert "--device cpu" in text


def test_gpu_asked_for_on_another_gpu(devices: Devices) -> None:
    text = refusal("a100", devices, make_host(make_gpu(), make_gpu(index=1)))
    assert "2 × NVIDIA H200 (sm_90, 139.8 GiB)" in text
    assert "this host is h200" in text
    assert "--device h200" in text


@pytest.mark.parametrize(
    ("typo", "meant"), [("h20", "h200"), ("H200", "h200"), ("a10", "a100"), ("cpus", "cpu")]
)
def test_unknown_device_gets_a_suggestion(devices: Devices, typo: str, meant: str) -> None:
    text = refusal(typo, devices, make_host())
    assert f"Did you mean {meant}?" in text
    assert "auto, a100, b200, cpu, h100, h200, l4" in text


def test_unknown_device_without_a_likeness(devices: Devices) -> None:
    assert "Did you mean" not in refusal("tpu-v6e", devices, make_host())


def test_gpu_that_is_not_in_the_yaml(devices: Devices) -> None:
    text = refusal("auto", devices, make_host(make_gpu("NVIDIA GB300", "10.3", memory_gib=278.3)))
    assert "add it to hardware.yaml" in text
    for part in ("id gb300", "kind cuda", 'capability "10.3"', "memory_gib 278", r"'NVIDIA\\ GB300'"):
        assert part in text
    assert "has no device for it" in refusal("h200", devices, make_host(make_gpu("NVIDIA GB300", "10.3")))


@pytest.mark.parametrize("requested", ["auto", "h200"])
def test_name_without_the_capability_is_refused(devices: Devices, requested: str) -> None:
    text = refusal(requested, devices, make_host(make_gpu("NVIDIA H200", "10.0")))
    assert "sm_90" in text
    assert "sm_100" in text
    assert "`capability` or `match` of h200" in text


@pytest.mark.parametrize("requested", ["auto", "h200"])
def test_mixed_gpus_are_refused(devices: Devices, requested: str) -> None:
    host = make_host(make_gpu(), make_gpu("NVIDIA L4", "8.9", 1, memory_gib=22.5))
    text = refusal(requested, devices, host)
    assert "1 × NVIDIA H200" in text
    assert "1 × NVIDIA L4" in text
    assert "CUDA_VISIBLE_DEVICES" in text


def test_several_devices_answer(devices: Devices) -> None:
    devices["h200-nvl"] = Device("h200-nvl", capability="9.0", match=("H200 NVL",))
    host = make_host(make_gpu("NVIDIA H200 NVL"))
    assert "h200, h200-nvl" in refusal("auto", devices, host)
    assert match_device("h200-nvl", devices, host) == "h200-nvl"


@pytest.mark.parametrize("requested", ["auto", "h200"])
def test_a_slice_is_not_the_gpu(devices: Devices, requested: str) -> None:
    host = make_host(make_gpu("NVIDIA H200 MIG 1g.18gb", mig=True, memory_gib=16.0))
    refusal(requested, devices, host)
    devices["h200-mig"] = Device("h200-mig", capability="9.0", match=("H200 MIG 1g.18gb",))
    assert match_device("auto", devices, host) == "h200-mig"


@pytest.mark.parametrize("requested", ["auto", "h200"])
def test_broken_driver_is_infrastructure(devices: Devices, requested: str) -> None:
    host = make_host(gpu_problem="the NVIDIA driver does not answer: Unknown Error")
    with pytest.raises(InfrastructureError, match="does not answer") as caught:
        match_device(requested, devices, host)
    assert caught.value.exit_code is ExitCode.INFRASTRUCTURE


def test_hidden_gpus_are_told(devices: Devices) -> None:
    host = make_host(gpus_present=4, visible_devices="", driver="580.65")
    assert match_device("auto", devices, host) == "cpu"
    assert "CUDA_VISIBLE_DEVICES='' hides its 4 GPUs" in refusal("h200", devices, host)


def test_unreadable_visible_devices(devices: Devices) -> None:
    host = make_host(make_gpu(), visible_problem="CUDA_VISIBLE_DEVICES=0,9: '9' names no GPU of this host")
    assert "names no GPU" in refusal("auto", devices, host)


def test_no_cpu_in_the_yaml(devices: Devices) -> None:
    del devices["cpu"]
    assert "no device of kind cpu" in refusal("auto", devices, make_host())
    assert "--device auto" in refusal("h200", devices, make_host())


def test_describe_keeps_kinds_apart() -> None:
    gpus = [make_gpu(), make_gpu("NVIDIA L4", "8.9", 1, memory_gib=22.5), make_gpu(index=2)]
    assert describe_gpus(gpus) == "2 × NVIDIA H200 (sm_90, 139.8 GiB), 1 × NVIDIA L4 (sm_89, 22.5 GiB)"
