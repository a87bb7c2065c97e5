"""The two LeNets that pruning papers report on, for images of 28×28.

Source: LeCun et al., Proceedings of the IEEE 86 (1998); LeNet-5 in the wider form that came with
Caffe, with ReLU and max-pooling.
"""

from collections import OrderedDict

from torch import nn

from sparse_ops.models._init import xavier_


def lenet300(num_classes: int = 10, *, xavier: bool = False) -> nn.Module:
    """LeNet-300-100: three linear layers. Takes (N, 1, 28, 28) or (N, 784).

    `xavier` draws the first weights as the GSM authors do; torch's own way is the default.
    """
    model = nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, num_classes),
        )
    )
    if xavier:
        xavier_(model)
    return model


def lenet5(num_classes: int = 10, *, xavier: bool = False) -> nn.Module:
    """LeNet-5: two convolutions of 5×5, two linear layers. Takes (N, 1, 28, 28).

    `xavier` draws the first weights as the GSM authors do; torch's own way is the default.
    """
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, num_classes),
        )
    )
    if xavier:
        xavier_(model)
    return model
