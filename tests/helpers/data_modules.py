"""What tests do with every data module: set it up, and take all images of a data set."""

import torch


def everything(dataset):
    return torch.stack([dataset[index] for index in range(len(dataset))])


def set_up(module):
    module.prepare_data()
    module.setup("fit")
    return module
