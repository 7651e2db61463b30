import sys,json; sys.path.insert(0,'data/recipe')
import corpus, tokenizer as bpe
from itertools import pairwise
from collections import Counter
from transformers import PreTrainedTokenizerFast
def old_merges():
    j=json.load(open('data/tiny-base/tokenizer.json'))['model']['merges']
    return [tuple(m) if isinstance(m,list) else tuple(m.split(' ')) for m in j]
def extend(pieces, merges, number):
    """learn_merges, going on from merges that are there."""
    merges=list(merges); words=[]
    ranks={m:i for i,m in enumerate(merges)}
    def enc(parts):
        parts=list(parts)
        while True:
            best=min((ranks[p],p) for p in pairwise(parts) if p in ranks) if any(p in ranks for p in pairwise(parts)) else None
            if best is None: return parts
            parts=bpe.apply_merge(parts,best[1])
    words=[(enc(p),n) for p,n in pieces.items()]
    pairs=Counter(); holders={}
    for i,(parts,n) in enumerate(words):
        for pair in pairwise(parts): pairs[pair]+=n; holders.setdefault(pair,set()).add(i)
    known={a+b for a,b in merges}; forbidden={("Ġ",l) for l in bpe.LABELS}
    while len(merges)<number:
        best=max((p for p in pairs if p not in forbidden and p[0]+p[1] not in known),key=lambda p:(pairs[p],p))
        merges.append(best); known.add(best[0]+best[1])
        for i in list(holders[best]):
            parts,n=words[i]
            for pair in pairwise(parts): pairs[pair]-=n; holders[pair].discard(i)
            parts=bpe.apply_merge(parts,best); words[i]=(parts,n)
            for pair in pairwise(parts): pairs[pair]+=n; holders.setdefault(pair,set()).add(i)
        pairs=+pairs
    return merges
if __name__=='__main__':
    world=corpus.World(); texts=[]
    mix={**corpus.COPYING}
    for _,d in corpus.documents(world,0,corpus.WORDS):
        texts.append(d if isinstance(d,str) else "\n".join(t for _,t in d))
        if len(texts)==20000: break
    texts+= [l for ls in world.moods.values() for l in ls]+world.tickets
    pieces=bpe.count_pieces(texts)
    base=4+256
    merges=extend(pieces,old_merges(),8192-base)
    json.dump(merges,open('drafts/vocabulary/merges.json','w'))
    import numpy as np
    from labkit import data
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from tokenizers import Tokenizer, models, pre_tokenizers, decoders
    te=data.read('tickets/test'); yt=np.array(list(te['tone']))
    X=[l for ls in world.moods.values() for l in ls]; y=[t for t,ls in world.moods.items() for l in ls]
    from tokenizers import pre_tokenizers
    alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    for v in (2048,3072,4096,6144,8192):
        m=merges[:v-base]; toks=[*bpe.SPECIAL,*alphabet,*(a+b for a,b in m)]
        t=Tokenizer(models.BPE(vocab={k:i for i,k in enumerate(toks)},merges=m)); t.pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),pre_tokenizers.ByteLevel(add_prefix_space=False,use_regex=True)])
        T=lambda xs:[" ".join(map(str,e.ids)) for e in t.encode_batch(list(xs))]
        A,B=T(X),T(te['text']); n=sum(len(b.split()) for b in B)/len(B)
        out=[]
        for ng in ((1,1),(1,2)):
            vec=TfidfVectorizer(ngram_range=ng,token_pattern=r'\S+',sublinear_tf=True); Z=vec.fit_transform(A); c=LogisticRegression(C=10,max_iter=200).fit(Z,y); out.append((c.predict(vec.transform(B))==yt).mean().round(3))
        print(v,'tokens a letter',round(n,1),'uni, bi',out,flush=True)
