"""May this model be asked about this film? Decided from the header, before any pixel is read.

What the header says to be something else is refused; what it does not say is flagged or refused,
as the package's policy has it. Free text (study and series descriptions) has no say.
"""

from __future__ import annotations

from hilum.dicom import FilmHeader
from hilum.errors import LateralViewError, NotChestError, PlainImageError, WrongModalityError
from hilum.package import InputPolicy

BODY_PART_UNKNOWN = "body_part_unknown"
VIEW_UNKNOWN = "view_unknown"
PLAIN_IMAGE = "plain_image"
# What stands for PNG and JPEG files among a policy's modalities.
OTHER = "OTHER"


def check(header: FilmHeader, policy: InputPolicy) -> tuple[str, ...]:
    """The flags that belong to every number of this film, such as ``view_unknown``.

    Raises:
        PlainImageError: a PNG or JPEG file, and OTHER is not one of ``policy.modalities``.
        WrongModalityError: not one of ``policy.modalities``.
        NotChestError: another body part, or none is given and the policy refuses that.
        LateralViewError: another view, or none is given and the policy refuses that.
    """
    flags = list(header.flags)
    if header.picture is not None:
        if OTHER not in policy.modalities:
            raise PlainImageError(
                f"This is a {header.picture.upper()} file; expected a DICOM object of modality "
                f"{' or '.join(policy.modalities)}."
            )
        flags.append(PLAIN_IMAGE)
    elif header.modality not in policy.modalities:
        raise WrongModalityError(
            f"Modality (0008,0060) is {_shown(header.modality)}; "
            f"expected {' or '.join(policy.modalities)}."
        )
    if header.body_part is None:
        if policy.unknown_body_part == "refuse":
            raise NotChestError("Body Part Examined (0018,0015) is not given.")
        flags.append(BODY_PART_UNKNOWN)
    elif header.body_part not in policy.body_parts:
        raise NotChestError(
            f"Body Part Examined (0018,0015) is {_shown(header.body_part)}; "
            f"expected {' or '.join(policy.body_parts)}."
        )
    if header.view is None:
        if policy.unknown_view == "refuse":
            raise LateralViewError("View Position (0018,5101) is not given.")
        flags.append(VIEW_UNKNOWN)
    elif header.view not in policy.views:
        raise LateralViewError(
            f"View Position (0018,5101) is {_shown(header.view)}; "
            f"expected {' or '.join(policy.views)}."
        )
    return tuple(flags)


def _shown(value: str | None) -> str:
    """A code string is safe to repeat; anything else in its place is not."""
    if value is None:
        return "missing"
    plain = len(value) <= 16 and value.replace("_", "").replace(" ", "").isalnum()
    return value if plain else "not a code string"
