"""Which type of machine Ray's autoscaler asks for next: one that the cloud had, before one that it lacked.

Ray's autoscaler (version 1) records launches that failed, such as for want of capacity, but its own order ignores that
record and would ask for the same type all night. `RAY_AUTOSCALER_UTILIZATION_SCORER` names this order instead.
"""

from numbers import Real
from typing import Any

from ray.autoscaler._private.resource_demand_scheduler import _resource_based_utilization_scorer

Score = tuple[bool, bool, float, Any, float, float]


def score(
    node_resources: dict[str, Real],
    resources: list[dict[str, Real]],
    node_type: str,
    *,
    node_availability_summary: Any,
) -> Score | None:
    """How well a machine of `node_type` serves the waiting tasks; Ray launches the type with the highest score, and of
    equal ones the last in alphabetical order (`p4d-spot` before `p4d`).

    No GPU machines for tasks without GPUs; then types whose last launch did not fail within half an hour; of those that
    failed, the one that was tried longest ago; then Ray's order.

    Args:
        node_resources: what a machine of the type has.
        resources: what each waiting task or bundle needs.
        node_type: name of the type in the cluster file.
        node_availability_summary: Ray's record of launches within AUTOSCALER_NODE_AVAILABILITY_MAX_STALENESS_S.
    Returns:
        None if the machine fits none of them.
    """
    own = _resource_based_utilization_scorer(
        node_resources, resources, node_availability_summary=node_availability_summary
    )
    if own is None:
        return None
    record = node_availability_summary.node_availabilities.get(node_type)
    is_available = record is None or record.is_available
    last_failed_s = 0.0 if is_available else record.last_checked_timestamp
    return (own[0], is_available, -last_failed_s, *own[1:])
