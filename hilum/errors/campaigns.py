"""Errors of campaigns and of the model in force."""

from __future__ import annotations

from hilum.errors.tree import PermanentError


class CampaignError(PermanentError):
    """The request contradicts the state or the rules of a campaign."""

    code = "campaign.invalid"
    next_step = "Correct the option named above."


class CampaignUnknownError(CampaignError):
    """The tenant has no such campaign."""

    code = "campaign.unknown"
    next_step = "List the campaigns with `hilum rescore status --tenant TENANT`."


class CampaignExistsError(CampaignError):
    """An active campaign has the same selection and the same model."""

    code = "campaign.exists"
    next_step = "Continue the campaign named above, or cancel it first."


class CampaignStateError(CampaignError):
    """The campaign is in a state that does not allow this."""

    code = "campaign.state"
    next_step = "Read its state with `hilum rescore status CAMPAIGN`."


class NothingSelectedError(CampaignError):
    """The selection contains no instance that the modes ask for."""

    code = "campaign.nothing_selected"
    next_step = "Look at the counts of `hilum rescore plan`, and choose other filters or modes."


class SelectionUnknownError(CampaignError):
    """A filter names something that no instance, or no model, has."""

    code = "campaign.unknown_filter"
    next_step = "Check the spelling; the filters are exact."


class WindowInvalidError(CampaignError):
    """The window is not valid, or never opens."""

    code = "campaign.window_invalid"
    next_step = "Give the window as HH:MM-HH:MM, and the time zone as in Europe/Berlin."


class ModelUnknownError(CampaignError):
    """No model with this digest is registered."""

    code = "model.unknown"
    next_step = "Give the package itself, or start a worker with it once."


class ModelUnservedError(CampaignError):
    """No live worker serves the model."""

    code = "model.unserved"
    next_step = "Start workers with `hilum worker --model PACKAGE`."


class PreprocessingChangedError(CampaignError):
    """This version of hilum prepares films for the package in another way than before."""

    code = "model.preprocessing_changed"
    next_step = "Create the campaign again: it then uses the preprocessing of this version."


class FailureRateError(CampaignError):
    """Too many images failed, so the campaign paused by itself."""

    code = "campaign.failure_rate"
    next_step = "Remove the cause (see the counts by code), then run `hilum rescore resume`."


class AddressUnknownError(CampaignError):
    """The instance has no address, so its object cannot be fetched."""

    code = "instance.address_unknown"
    next_step = "Enter its address with `hilum index`, then run a campaign with --mode failed."


class NothingToRollBackError(CampaignError):
    """The tenant has no promotion that could be rolled back."""

    code = "serving.nothing_before"
    next_step = "There is nothing to do."
