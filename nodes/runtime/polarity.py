"""Which conditionings are told the references: decided by the names a guider gives them.

The place in a list decides nothing: guiders ask in different orders, and guidance nodes ask for the
negative prompt alone, as number 0.
"""

from collections.abc import Mapping, Sequence

# A guider's conditioning with one of these in its name is answered with the reference's absence.
NEGATIVE_NAMES = ("neg", "uncond", "empty", "nocond")


def told_by_name(name: str, conds: Sequence[Mapping] = ()) -> bool:
    """Whether a guider's conditioning of this name is told the references."""
    if name == "positive":
        return True
    if any(cond.get("prompt_type") == "negative" for cond in conds):
        return False
    return not any(word in name.lower() for word in NEGATIVE_NAMES)


def told_by_id(uuid, named: Mapping[str, Sequence[Mapping]]) -> bool | None:
    """Whether the conditioning of this id is told; None when its name is unknown or not unique."""
    names = [name for name, conds in named.items() if any(c.get("uuid") == uuid for c in conds)]
    return told_by_name(names[0], named[names[0]]) if len(names) == 1 else None


def is_told(group: Sequence[Mapping], named: Mapping[str, Sequence[Mapping]]) -> bool:
    """Find the guider's name for a conditioning list: by the object, then by the ids in it.

    Ids alone do not do: for an area ComfyUI copies the positive conditioning, id included, into
    the negative list.
    """
    ids = {cond.get("uuid") for cond in group}
    by_object, by_ids, by_overlap = [], [], []
    for name, conds in named.items():
        members = {cond.get("uuid") for cond in conds}
        if group is conds or any(cond is other for cond in group for other in conds):
            by_object.append(name)
        if ids == members:
            by_ids.append(name)
        if ids & members:
            by_overlap.append(name)
    for names in (by_object, by_ids, by_overlap):
        if len(names) == 1:
            return told_by_name(names[0], named[names[0]])
    # A prompt the guider does not list is made for guidance on the way, and those are empty ones.
    return any(cond.get("prompt_type") == "positive" for cond in group)
