"""From the header of a film to its row in SQL."""

from __future__ import annotations

from contextlib import suppress
from datetime import date, time

from hilum.db.identity import Field, IdentityVault, Sealed
from hilum.db.instances import NewInstance
from hilum.dicom.facts import clean
from hilum.pipeline.load import Seen


def new_instance(seen: Seen, uri: str, *, tenant: str, vault: IdentityVault | None) -> NewInstance:
    """The instance that was read at ``uri``. It has an identity only if there is a ``vault``.

    Every text is cleaned again here, because the header comes from a decode process or a cache.
    """
    header, facts = seen.header, seen.header.facts

    def seal(field: Field) -> Sealed | None:
        value = clean(getattr(facts.identity, field, None), 200)
        if vault is None or value is None:
            return None
        return vault.seal(value, field=field, tenant=tenant, instance=seen.content_sha256)

    return NewInstance(
        sop_instance_uid=header.sop_instance_uid,
        series_instance_uid=header.series_instance_uid,
        study_instance_uid=header.study_instance_uid,
        content_sha256=seen.content_sha256,
        uri=uri,
        etag=clean(seen.etag, 128),
        source=clean(uri.removeprefix("s3://").partition("/")[0], 64)
        if uri.startswith("s3://")
        else None,
        rows=header.rows,
        columns=header.columns,
        modality=clean(header.modality, 16),
        view=clean(header.view, 32),
        acquisition_date=_date(facts.acquisition_date),
        acquisition_time=_time(facts.acquisition_time),
        institution=clean(facts.institution, 64),
        manufacturer=clean(facts.manufacturer, 64),
        manufacturer_model=clean(facts.manufacturer_model, 64),
        age_years=header.age_years,
        sex=clean(facts.sex, 1),
        accession_number=seal("accession_number"),
        patient_id=seal("patient_id"),
        patient_name=seal("patient_name"),
    )


def _date(text: str | None) -> date | None:
    with suppress(ValueError):
        return date.fromisoformat(text) if text else None
    return None


def _time(text: str | None) -> time | None:
    with suppress(ValueError):
        return time.fromisoformat(text) if text else None
    return None
