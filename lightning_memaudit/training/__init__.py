"""Make a model that memorizes: networks, the LightningModule, data modules."""
