"""Hours, dollars and memory of one run, by cases that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plans import CPU_BOX, GPU_BOX, KNOWN, NETWORK, ONE_GPU, local, measured, workload

from cluster.plan.estimate import Estimate, estimate
from cluster.plan.machines import MachineGroup
from cluster.plan.profile import MeasuredProfile
from cluster.plan.workload import Workload
from datasets.runtime.errors import UserError


def of(
    run: Workload, *profiles: MeasuredProfile, group: MachineGroup | None = None, workers: int | None = None
) -> Estimate:
    return estimate(run, profiles, group or local(profiles[0]), KNOWN, workers)


def test_a_run_like_the_measured_one_takes_the_sum_of_its_measured_parts():
    found = of(workload(), measured())
    assert found.seconds == pytest.approx(
        {
            "start": 30.0,
            "warm_up": 10.0,
            "compute": 3_600.0,
            "input": 0.0,
            "all_reduce": 0.0,
            "validations": 3 * 2.0,  # at 100, 200 and 300 million targets, 20,000 frames each
            "final_evaluation": 20.0,  # ten times the frames of the measured one
            "checkpoints": 14 * 0.1,  # twelve by the clock, two at the end
            "end": 5.0,
        }
    )
    assert found.hours == pytest.approx((3_600 + 72.4) / 3_600)
    assert (found.estimates, found.usd, found.limited_by, found.num_checkpoints) == ((), 0.0, "compute", 14)
    assert found.checkpoint_gb == 0.012 and found.disk_gb == pytest.approx(4 * 0.012)
    assert found.memory.gpu_gb == pytest.approx(5.0)


def test_waits_for_input_are_a_part_of_the_time():
    found = of(workload(), measured(mean_wait_share=0.6))
    assert (found.seconds["input"], found.seconds["compute"]) == pytest.approx((2_160.0, 1_440.0))
    assert found.limited_by == "input"


def test_the_mean_speed_counts_and_not_the_median():
    assert of(workload(), measured(mean_targets_per_s=50_000.0)).seconds["compute"] == pytest.approx(7_200)


def test_a_size_that_was_not_measured_is_scaled_by_its_flops_and_marked():
    larger = replace(NETWORK, num_parameters=3_000_000, flops_per_target=3e7)
    found = of(workload(network=larger), measured())
    assert found.speed.targets_per_s == pytest.approx(100_000 / 3)
    assert found.is_estimate and "scaled by FLOPs: 3 times" in found.estimates[0]
    assert found.seconds["final_evaluation"] == pytest.approx(60.0)
    assert found.seconds["checkpoints"] / found.num_checkpoints == pytest.approx(0.3)
    assert found.checkpoint_gb == pytest.approx(0.036)


def test_profiles_of_several_sizes_say_how_speed_depends_on_size():
    small = replace(NETWORK, num_parameters=100_000, flops_per_target=1e6)
    half = measured(small, targets_per_s=500_000.0)  # 0.5 TFLOP/s at a tenth of the FLOPs of a target
    tiny = replace(NETWORK, num_parameters=10_000, flops_per_target=1e5)
    found = of(workload(network=tiny), measured(), half)
    assert found.speed.targets_per_s == pytest.approx(2_500_000)  # 0.25 TFLOP/s: half again
    assert found.speed.base is half
    exact = of(workload(network=small), measured(), half)
    assert exact.speed.targets_per_s == 500_000 and not exact.speed.estimates
    assert of(workload(network=tiny), measured()).speed.targets_per_s == pytest.approx(10_000_000)


def test_workers_exchange_their_gradients_after_each_update():
    found = of(workload(), measured(), group=MachineGroup(machine=GPU_BOX))
    update_s = 512 * 64 / 100_000
    exchange_s = 2 * 3 / 4 * 4e6 / (0.5 * 200e9)  # a ring of 4, 4 MB of gradients, half of 200 GB/s
    assert found.speed.workers == 4 and found.speed.batch_size == 2_048
    assert found.speed.targets_per_s == pytest.approx(4 * 512 * 64 / (update_s + exchange_s))
    assert found.seconds["all_reduce"] == pytest.approx(
        found.workload.targets / found.speed.targets_per_s * found.speed.communication_share
    )
    assert found.is_estimate and found.usd == pytest.approx(8 * found.hours)
    two = of(workload(), measured(), group=MachineGroup(machine=GPU_BOX, number=2))
    across_s = 2 * 7 / 8 * 4e6 / (0.5 * 10e9)
    assert two.speed.targets_per_s == pytest.approx(8 * 512 * 64 / (update_s + across_s))
    assert two.usd == pytest.approx(16 * two.hours)
    spot = of(workload(), measured(), group=MachineGroup(machine=GPU_BOX, is_spot=True))
    assert spot.usd == pytest.approx(3 * spot.hours)


def test_a_profile_of_as_many_workers_is_taken_as_it_is():
    four = measured(workers=4, batch_size=2_048, targets_per_s=300_000.0)
    found = of(workload(), measured(), four, group=MachineGroup(machine=GPU_BOX))
    assert found.speed.base is four and found.speed.targets_per_s == 300_000 and not found.estimates


def test_another_gpu_is_scaled_by_the_peaks():
    h100 = measured(device_name="NVIDIA H100 80GB HBM3", targets_per_s=300_000.0)
    found = of(workload(), h100, group=MachineGroup(machine=ONE_GPU))
    assert found.speed.targets_per_s == pytest.approx(100_000)
    assert "0.33 times as fast" in found.estimates[0]


def test_the_processes_of_one_cpu_machine_share_its_cores():
    cpu = measured(
        device="cpu", device_name="EPYC", threads=2, targets_per_s=6_000.0, batch_size=8, device_peak_gb=None
    )
    alone = of(workload(batch_size=8), cpu)
    assert alone.speed.targets_per_s == 6_000 and not alone.estimates
    two = of(workload(batch_size=16), cpu, workers=2)
    update_s = 8 * 64 / 3_000
    exchange_s = 2 * 1 / 2 * 4e6 / (0.5 * 2e9)
    assert two.speed.targets_per_s == pytest.approx(2 * 8 * 64 / (update_s + exchange_s))
    rented = of(workload(batch_size=8), cpu, group=MachineGroup(machine=CPU_BOX))
    assert rented.speed.targets_per_s == pytest.approx(24_000)
    assert rented.memory.host_gb == pytest.approx(2.0)


def test_evaluations_that_were_not_measured_count_a_third_of_a_training_frame():
    found = of(workload(), measured(final_evaluation={}))
    assert found.seconds["final_evaluation"] == pytest.approx(200_000 / 300_000)
    assert any("a third of a training frame" in reason for reason in found.estimates)


def test_memory_grows_with_batch_and_width_and_says_if_it_does_not_fit():
    larger = replace(NETWORK, num_parameters=4_000_000, flops_per_target=4e7, width=2_048)
    found = of(workload(network=larger, batch_size=1_024), measured(), group=MachineGroup(machine=ONE_GPU))
    assert found.memory.gpu_gb == pytest.approx(0.064 + (5.0 - 0.016) * 2 * 2)
    assert found.memory.problem is None
    many = of(workload(network=larger, batch_size=8_192), measured(), group=MachineGroup(machine=ONE_GPU))
    assert many.memory.problem is not None and "a GPU needs" in many.memory.problem


def test_frames_that_stay_on_the_device_count():
    resident = measured(train_frames=10_000_000, resident=True)
    found = of(workload(games=2_000, frames_per_game=10_000.0), resident)
    assert found.memory.gpu_gb == pytest.approx(5.0 + 10e6 * 188 / 1e9)
    assert found.disk_gb == pytest.approx(20e6 * 16.3 / 1e9 + 0.048)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"device": "cpu"}, r"is of a CPU; run `wm profile`"),
        ({}, "is of encoding 2, the config has 4"),
    ],
)
def test_profiles_that_do_not_fit_are_named_with_what_to_do(content, message):
    other = measured(**content) if content else measured(replace(NETWORK, encoding=2))
    with pytest.raises(UserError, match=message):
        estimate(workload(), [other], MachineGroup(machine=GPU_BOX), KNOWN)


def test_a_profile_of_an_mlp_does_not_fit_a_mamba():
    with pytest.raises(UserError, match=r"is of model.kind mlp, the config has mamba2"):
        of(workload(), measured(replace(NETWORK, kind="mlp")))
