"""Why members may not be what was trained on, and controls not what was not, though they were read as such."""

MEMBERS_NOT_GIVEN, MEMBERS_LEFT_OUT, CONTROLS_GIVEN = "members_not_given", "members_left_out", "controls_given"
MEMBERS_NOT_YET_GIVEN, CALLED_OTHERWISE = "members_not_yet_given", "called_otherwise"
MEMBERS_WITHOUT_LOSS, LEARNS_OTHERWISE = "members_without_loss", "learns_otherwise"

NEARLY_ALL = 0.9
"""Of the audited members, at least, that the training must have been given."""

TRAINING_REMEDIES: dict[str, tuple[str, str, str]] = {
    CALLED_OTHERWISE: (
        "the training calls the model in another way than the audit",
        "what is stored for that way need not come back by this one.",
        "Pass reconstruct=<a function (module, images) or (module, batch)> that calls the model as training_step does.",
    ),
    LEARNS_OTHERWISE: (
        "the model learns to return something else than its images",
        "taken as it is, that is no reconstruction.",
        "Pass output= or reconstruct=<a function (module, images)> that makes images of what is returned, such as "
        'output="torch.sigmoid" of logits, or image_key= of the images that it learns to return.',
    ),
    MEMBERS_NOT_GIVEN: (
        "not all audited members were trained on as they were audited",
        "those can hardly come back.",
        "Audit images that the training gets as they are: pass members=<a data set of them>, without augmentation that "
        "is cached or depends on the epoch, and without images that the training leaves out.",
    ),
    MEMBERS_WITHOUT_LOSS: (
        "the training's loss leaves out some of the audited members",
        "nothing was learned from those.",
        "Pass members=<a data set of the images that the loss is made of>.",
    ),
    MEMBERS_NOT_YET_GIVEN: (
        "not all audited members have been trained on yet",
        "those can hardly come back.",
        "Audit later in the training, or pass members=<a data set of images that are trained on>.",
    ),
    MEMBERS_LEFT_OUT: (
        "the training has gone on with other images than the audited members",
        "what it has forgotten of them says nothing of those that it gets now.",
        "Pass members=<all images that are trained on, as they are at last> from the beginning of the run.",
    ),
    CONTROLS_GIVEN: (
        "some of the controls were trained on",
        "that they come back says nothing against the members.",
        "Pass controls=<images that are never trained on>.",
    ),
}
"""For a verdict, by code: what is wrong in one clause, what follows from it, and what to do."""
