# Stylization as in Section 4.3 of the SN paper (arXiv v1) and, where it says nothing, in Johnson et al. (1603.08155): images
# of 256x256, 4 a batch, 40,000 iterations of Adam at 0.001, no decay; features of relu2_2, style of relu1_2, relu2_2,
# relu3_3 and relu4_3. A file that builds on it names the norm. The weights of the losses are for torchvision's VGG16 and
# images from 0 to 1: features and style in the proportion of Johnson's code (1 : 5), total variation scaled to it.
_base_ = './runtime_images.py'

model = dict(
    type='Stylizer',
    network=dict(type='TransformationNetwork'),
    loss=dict(
        # The image whose style is wanted: --cfg-options model.loss.style_image=PATH
        style_image='data/style.jpg',
        # 'torchvision' (downloaded at the first run), the path of such a file, or 'random'.
        vgg='torchvision', style_size=256, feature_weight=1.0, style_weight=5.0, tv_weight=2e-5))

load = dict(type='LoadImageFromFile')
pack = dict(type='PackImage')
train_pipeline = [load, dict(type='Resize', scale=(256, 256)), pack]
test_pipeline = [load, dict(type='Resize', scale=(512, 512)), pack]

# Any folder of images will do.
train_dataloader = dict(
    batch_size=4, num_workers=2, persistent_workers=True, drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='ImageFolder', data_root='data/coco', data_prefix=dict(img_path='train2017'), pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=1, num_workers=2, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ImageFolder', data_root='data/coco', data_prefix=dict(img_path='val2017'), indices=20,
        pipeline=test_pipeline))
test_evaluator = dict(type='LossMetric')

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3, weight_decay=0))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40_000)
test_cfg = dict(type='TestLoop')
