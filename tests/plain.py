"""The papers' formulas written out on the whole tensor, one normalizer after the other: slow, and easy to check."""

import torch


def standardize_dims(x, normalizer):
    positions = list(range(2, x.dim()))
    return {'IN': positions, 'LN': [1, *positions], 'BN': [0, *positions]}[normalizer]


def normalizer_moments(x, normalizer, num_groups):
    """Mean and biased variance that a normalizer uses, broadcastable to x."""
    if normalizer == 'GN':
        grouped = x.reshape(x.shape[0], num_groups, -1)
        mean = grouped.mean(2, keepdim=True)
        var = ((grouped - mean) ** 2).mean(2, keepdim=True)
        shape = (*x.shape[:2], *[1] * (x.dim() - 2))
        return tuple(t.expand(-1, -1, x.shape[1] // num_groups).reshape(shape) for t in (mean, var))
    dims = standardize_dims(x, normalizer)
    if not dims:  # IN over (N, C): one value a plane
        return x, torch.zeros_like(x)
    mean = x.mean(dims, keepdim=True)
    return mean, ((x - mean) ** 2).mean(dims, keepdim=True)


def batch_moments(batch):
    """Mean and biased variance of each channel, (C,), over all the values of several tensors of any size."""
    values = torch.cat([x.transpose(0, 1).flatten(1) for x in batch], 1)
    mean = values.mean(1)
    return mean, ((values - mean.unsqueeze(1)) ** 2).mean(1)


def pool_moments(layer, x, batch):
    moments = []
    for normalizer in layer.normalizers:
        if normalizer == 'BN' and not layer.training:
            moments.append((channels(layer.running_mean, x), channels(layer.running_var, x)))
        elif normalizer == 'BN' and batch is not None:
            moments.append(tuple(channels(t, x) for t in batch_moments(batch)))
        else:
            moments.append(normalizer_moments(x, normalizer, layer.num_groups))
    return moments


def channels(t, x):
    """(C,) or (N, C) broadcast against x."""
    return t.reshape(*((1,) if t.dim() == 1 else ()), *t.shape, *[1] * (x.dim() - 2))


def sparsemax(z):
    """The point of the simplex nearest to z, (K,): the largest entries of z, less what makes their sum 1."""
    for size in range(len(z), 0, -1):
        kept = z.detach().topk(size).indices
        p = torch.zeros_like(z).scatter(0, kept, z[kept] - (z[kept].sum() - 1) / size)
        if size == 1 or (p[kept] > 0).all():
            return p


def sparsestmax(z, radius):
    """SSN paper: sparsemax; if that is inside of the sphere, away from the center of its face, and again sparsemax."""
    p, k = sparsemax(z), len(z)
    while (p - 1 / k).norm() < radius - 1e-12 and (p > 0).sum() > 1:
        face = (p > 0).to(p.dtype)
        center = face / face.sum()
        within = (radius**2 - ((center - 1 / k) ** 2).sum()).sqrt()
        p = sparsemax(center + (p - center) * within / (p - center).norm())
    return p


def switchable_norm(layer, x, batch=None):
    """SN paper, Eqn. 3 to 5. BN's statistics are those of ``batch``, a list of tensors, rather than of x if given."""
    ratios = [logits.softmax(0) for logits in (layer.mean_weight, layer.var_weight)]
    return mixed_statistics(layer, x, *ratios, batch)


def sparse_switchable_norm(layer, x, batch=None):
    """The same with sparsestmax."""
    ratios = [sparsestmax(logits, layer.radius) for logits in (layer.mean_weight, layer.var_weight)]
    return mixed_statistics(layer, x, *ratios, batch)


def mixed_statistics(layer, x, mean_ratios, var_ratios, batch):
    moments = pool_moments(layer, x, batch)
    mean = sum(w * m for w, (m, _) in zip(mean_ratios, moments))
    var = sum(w * v for w, (_, v) in zip(var_ratios, moments))
    return channels(layer.weight, x) * (x - mean) / torch.sqrt(var + layer.eps) + channels(layer.bias, x)


def exemplar_ratios(layer, x, batch=None):
    """EN paper, Section 3.3, sample by sample."""
    pooled = x.flatten(2).mean(2) if x.dim() > 2 else x  # (N, C)
    moments = pool_moments(layer, x, batch)
    act = {'tanh': torch.tanh, 'relu': torch.relu}[layer.activation]
    rows = []
    for n in range(x.shape[0]):
        hats = []
        for mean, var in moments:
            mean_n, var_n = (t.expand(x.shape[0], x.shape[1], *t.shape[2:])[n].reshape(-1) for t in (mean, var))
            hats.append((pooled[n] - mean_n) / torch.sqrt(var_n + layer.eps))
        if layer.ratio_net == 'mlp':
            features = pooled[n]
        else:
            z = torch.stack(hats)  # (K, C)
            if layer.conv:
                c, r = layer.num_features, layer.reduction
                z = torch.stack([(z[:, j * r : (j + 1) * r] * layer.conv_weight[j]).sum(1) for j in range(c // r)], 1)
            features = torch.stack([torch.stack([(z[a] * z[b]).sum() for b in range(len(z))]) for a in range(len(z))])
            features = features.reshape(-1)
        hidden = act(layer.fc1_weight @ features + layer.fc1_bias)
        rows.append((layer.fc2_weight @ hidden + layer.fc2_bias).softmax(0))
    return torch.stack(rows)


def exemplar_norm(layer, x, batch=None):
    """EN paper, Eqn. 3. BN's statistics are those of ``batch``, a list of tensors, rather than of x if given."""
    ratios = exemplar_ratios(layer, x, batch)
    y = 0
    for k, (mean, var) in enumerate(pool_moments(layer, x, batch)):
        weight = layer.weight if layer.shared_affine else layer.weight[k]
        lam = ratios[:, k].reshape(-1, *[1] * (x.dim() - 1))
        y = y + channels(weight, x) * lam * (x - mean) / torch.sqrt(var + layer.eps)
        if not layer.shared_affine:
            y = y + channels(layer.bias[k], x)
    return y + channels(layer.bias, x) if layer.shared_affine else y


def instance_meta_norm(layer, x):
    """ILM paper, Section 3."""
    acts = {
        'tanh': torch.tanh,
        'sigmoid': torch.sigmoid,
        'relu': torch.relu,
        'leaky_relu': lambda t: torch.where(t > 0, t, 0.01 * t),
        'relu6': lambda t: torch.where(t < 6, t.clamp(min=0), torch.full_like(t, 6)),
        'identity': lambda t: t,
    }
    keys = x.reshape(x.shape[0], x.shape[1] // layer.key_group_size, -1)
    key_mean = keys.mean(2)
    key_var = ((keys - key_mean.unsqueeze(2)) ** 2).mean(2)
    embed = [torch.relu(key @ layer.encoder_weight.T) for key in (key_mean, key_var)]
    beta = acts[layer.mean_activation](embed[0] @ layer.mean_decoder_weight.T)
    omega = acts[layer.var_activation](embed[1] @ layer.var_decoder_weight.T)
    beta, omega = (t.repeat_interleave(layer.key_group_size, 1) for t in (beta, omega))
    mean, var = normalizer_moments(x, layer.base, layer.num_groups)
    standard = (x - mean) / torch.sqrt(var + layer.eps)
    return standard * (channels(omega, x) + channels(layer.weight, x)) + channels(beta, x) + channels(layer.bias, x)


PLAIN = {
    'SwitchableNorm': switchable_norm,
    'SparseSwitchableNorm': sparse_switchable_norm,
    'ExemplarNorm': exemplar_norm,
    'InstanceMetaNorm': instance_meta_norm,
}


def plain(layer, x, **options):
    return PLAIN[type(layer).__name__[:-2]](layer, x, **options)
